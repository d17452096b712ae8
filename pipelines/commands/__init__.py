"""The commands of `mammopipe`, one a module."""
