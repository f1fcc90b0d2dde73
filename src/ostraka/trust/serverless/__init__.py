"""Trust model `serverless`."""
