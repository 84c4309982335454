"""Distillation with an environment: students continue to learn in their own play."""
