"""Distillation with an environment: students go on learning where they play themselves."""
