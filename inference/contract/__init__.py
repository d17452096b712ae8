"""The contract between client and server: answers, errors, media types and the OpenAPI document."""
