"""Deployments: which model version answers for each label of a target, and going back."""

from holdfast.backend.deployment.deployments import Deployments

__all__ = ["Deployments"]
