"""The scheduler in a process of its own: snapshot of a study, budget, service and client."""
