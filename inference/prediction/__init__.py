"""Predicts an image or an exam: the predictor, thresholds, referral and heatmap."""
