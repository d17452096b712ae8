"""The SageMaker pipeline: definition, steps, parameters, and what they need of the SDK."""
