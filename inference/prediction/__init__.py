"""From image or exam to answer: the predictor, thresholds, referral, heatmap."""
