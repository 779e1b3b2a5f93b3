"""The same fit by SecretFlow's SPU."""
