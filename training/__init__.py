"""Training and evaluation: one training job for each network, then one evaluation job over all of them.

`train` is the training job (console script `train`) and `evaluate` the evaluation job. `config` holds the
hyperparameters; those of the optimiser, of the variations and of the auxiliary targets are in `optimisation`,
`variation` and `auxiliary`. `networks` builds networks and reads and writes their weights; `fitting` trains them;
`metrics` computes metrics with intervals; `evaluation` selects, calibrates, chooses thresholds and audits; `reporting`
writes the report and the model cards. `model` holds everything about a trained model that serving needs, without
torch. This package imports only `processing`.
"""

if __name__ != "mammopipe.training":
    raise ImportError("this folder must be imported as mammopipe.training")
