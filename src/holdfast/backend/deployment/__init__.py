"""Deployments: which model version answers for each label of a target, and going back.

deployments  what was and is deployed
routes       which of the deployments on trial answers a request
rollouts     candidates on trial: what was decided of them and why
trials       what becomes of a running rollout, also when another deployment overtakes it
outcomes     what became of predictions
"""

from holdfast.backend.deployment.deployments import Deployments
from holdfast.backend.deployment.outcomes import Outcome, Outcomes, OutcomesAdded
from holdfast.backend.deployment.rollouts import Rollouts
from holdfast.backend.deployment.routes import Arm, Route

__all__ = ["Arm", "Deployments", "Outcome", "Outcomes", "OutcomesAdded", "Rollouts", "Route"]
