"""The SageMaker pipeline: definition, steps, parameters, and the use of the SDK.

`definition` builds the graph from the steps in `steps` (Prepare to Register), `candidate_steps` (training),
`serving_steps` (model and endpoint) and `transform_steps`. `aws_rules` refuses what AWS would refuse.
"""
