"""External evaluation: a model on a labelled dataset that it has never seen (`mammopipe evaluate`)."""
