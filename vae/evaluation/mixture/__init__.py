"""A mixture of normals, fitted to the aggregate posterior of a trained model: another density of z, not its prior."""
