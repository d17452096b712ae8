"""Wiring: the SageMaker pipeline of mammopipe, and the places where it runs."""
