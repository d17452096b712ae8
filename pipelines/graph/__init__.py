"""The SageMaker pipeline: definition, steps, parameters, and the use of the SDK."""
