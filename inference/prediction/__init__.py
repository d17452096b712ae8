"""Predicts an image or an exam: the predictor, thresholds, referral and heatmap.

`predictor` judges one image, `exam` combines views into breasts and an exam, `thresholds` decides by the operating
points that training chose (`mammopipe.training.evaluation.calibration`), `referral` refers a case to a reader, and
`handler` answers one request of the server.
"""
