"""Optuna's tables, as far as proposals are read by SQL alone.

Optuna's own models map every table and bring SQLAlchemy's ORM, and its storage brings Alembic with every dialect: most
of a second, for commands that only look something up. A test compares these columns with the models'.
"""

from __future__ import annotations

from sqlalchemy import DateTime, column, table

STUDIES = table("studies", column("study_id"), column("study_name"))
DIRECTIONS = table("study_directions", column("study_id"), column("direction"), column("objective"))
STUDY_ATTRIBUTES = table("study_system_attributes", column("study_id"), column("key"), column("value_json"))
STUDY_USER_ATTRIBUTES = table("study_user_attributes", column("study_id"), column("key"), column("value_json"))
TRIALS = table(
    "trials", column("trial_id"), column("number"), column("study_id"), column("state"),
    column("datetime_start", DateTime()), column("datetime_complete", DateTime()),
)  # fmt: skip
PARAMS = table(
    "trial_params", column("param_id"), column("trial_id"), column("param_name"), column("param_value"),
    column("distribution_json"),
)  # fmt: skip
VALUES = table("trial_values", column("trial_id"), column("objective"), column("value"), column("value_type"))
USER_ATTRIBUTES = table(
    "trial_user_attributes", column("trial_user_attribute_id"), column("trial_id"), column("key"), column("value_json")
)
SYSTEM_ATTRIBUTES = table(
    "trial_system_attributes", column("trial_system_attribute_id"), column("trial_id"), column("key"),
    column("value_json"),
)  # fmt: skip
INTERMEDIATE_VALUES = table(
    "trial_intermediate_values", column("trial_id"), column("step"), column("intermediate_value"),
    column("intermediate_value_type"),
)  # fmt: skip
REVISION = table("alembic_version", column("version_num"))

READABLE = "v3.2.0.a"
"""Revision of Optuna's schema that has these columns: Optuna 3.2 to 5.0 write it."""
