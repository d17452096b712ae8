"""The SageMaker pipeline: definition, steps, parameters, and the use of the SDK.

`definition` builds the graph from the steps in `steps` (Prepare, Augment, Segment, Evaluate, Register, the gate),
`candidate_steps` (training and search), `serving_steps` (model and endpoint) and `transform_steps` (batch transform).
`request_parts` has what the steps share, `parameters` the values that a run may change. `requests` resolves a compiled
definition; `aws_rules` and `request_rules` find what AWS would refuse in it, `permissions` what its roles need.
"""
