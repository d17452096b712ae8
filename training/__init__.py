"""Models and measures: one training job per CNN, then one evaluation job over all of them. Imports processing only.

`train` is the training job (console script `train`), `evaluate` the evaluation job. `config` holds a run's settings,
`models` the CNN registry, `dataset` the films as tensors, `loop` the epochs, `metrics` the figures, `artifact` the
model directory, `gradcam` where in a film a class was seen, `export` the network as it is deployed, `reference` what is
usual for it. `description`, `reference`, `compiled`, `close_calls` and `activation` serve without torch.
"""

if __name__ != "mammopipe.training":
    raise ImportError("import mammopipe.training: this folder of the checkout has that one name")
