"""The durable engine: jobs, their steps and schedules, on the metadata database. It knows no pipeline.

queue      what waits, runs, ended: every transition a transaction
running    one job: its steps, each done once; `Engine.run` here and now, `Engine.work` as a worker does
worker     child processes that run jobs, and the parent that can kill them
schedules  cron lines that send jobs
"""

from holdfast.backend.jobs.queue import ACTIVE, STATES, Queue
from holdfast.backend.jobs.running import Engine, Handler, Running
from holdfast.backend.jobs.schedules import Schedule, Schedules

__all__ = ["ACTIVE", "STATES", "Engine", "Handler", "Queue", "Running", "Schedule", "Schedules"]
