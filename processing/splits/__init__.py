"""Splits by patient, and the audit that proves that nothing crosses between them."""
