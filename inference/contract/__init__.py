"""What client and server agree on: answers, errors, media types, the OpenAPI document."""
