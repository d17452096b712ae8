"""The commands of `mammopipe`, one per module."""
