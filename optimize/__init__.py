"""Search on a fitted map: targets, Pareto fronts, latent search, nearest real checkpoints, proposals for the next runs.

Takes a surrogate and records of checkpoints, gives answers that name real checkpoints and their hyperparameters. It
knows no files, servers or terminals.

Public is what ``__all__`` lists (docs/reference/api/optimize.md). All else is internal and may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from epsopt.zoo.public_names import lazy_names

if TYPE_CHECKING:
    from epsopt.optimize.forecast.learning_curve_gp import Curve, PathMeasurements
    from epsopt.optimize.forecast.run_forecaster import RunForecast, RunForecaster, fit_run_forecaster
    from epsopt.optimize.forecast.run_trajectory import RunTrajectory, run_trajectory
    from epsopt.optimize.forecast.temporal_model import (
        PredictedPath,
        TemporalModel,
        fit_temporal_model,
        predict_training_trajectory,
    )
    from epsopt.optimize.latent.clusters import Clustering, cluster, cluster_runs
    from epsopt.optimize.latent.neighbours import Neighbour, nearest
    from epsopt.optimize.latent.region_sampling import RegionSample, sample_region
    from epsopt.optimize.latent.search import ENGINES, Answer, SearchResult, search
    from epsopt.optimize.latent.trajectory import RunPath, path_statistics, run_paths
    from epsopt.optimize.merge.weight_space_gp import MergeCandidate, WeightSpace, on_way
    from epsopt.optimize.objectives import Objective, Objectives, Target, meets, parse_targets
    from epsopt.optimize.pareto import Front, hypervolume, non_dominated
    from epsopt.optimize.proposals.past_runs import PastRun, past_runs
    from epsopt.optimize.proposals.proposals import History, Proposal, propose
    from epsopt.optimize.schedule.decision import Decision
    from epsopt.optimize.schedule.pruner import Pruner
    from epsopt.optimize.schedule.run_acquisition import Candidate, Start
    from epsopt.optimize.schedule.run_model import RunModel
    from epsopt.optimize.schedule.run_prediction import Expected, expect
    from epsopt.optimize.schedule.scheduler import Scheduler, SearchState, Step
    from epsopt.optimize.space import Parameter, Space
    from epsopt.optimize.space_inference import infer_space

__all__ = [
    "ENGINES",
    "Answer",
    "Candidate",
    "Clustering",
    "Curve",
    "Decision",
    "Expected",
    "Front",
    "History",
    "MergeCandidate",
    "Neighbour",
    "Objective",
    "Objectives",
    "Parameter",
    "PastRun",
    "PathMeasurements",
    "PredictedPath",
    "Proposal",
    "Pruner",
    "RegionSample",
    "RunForecast",
    "RunForecaster",
    "RunModel",
    "RunPath",
    "RunTrajectory",
    "Scheduler",
    "SearchResult",
    "SearchState",
    "Space",
    "Start",
    "Step",
    "Target",
    "TemporalModel",
    "WeightSpace",
    "cluster",
    "cluster_runs",
    "expect",
    "fit_run_forecaster",
    "fit_temporal_model",
    "hypervolume",
    "infer_space",
    "meets",
    "nearest",
    "non_dominated",
    "on_way",
    "parse_targets",
    "past_runs",
    "path_statistics",
    "predict_training_trajectory",
    "propose",
    "run_paths",
    "run_trajectory",
    "sample_region",
    "search",
]

_HOMES = {
    "Answer": "latent.search",
    "Candidate": "schedule.run_acquisition",
    "Clustering": "latent.clusters",
    "Curve": "forecast.learning_curve_gp",
    "Decision": "schedule.pruner",
    "ENGINES": "latent.search",
    "Expected": "schedule.run_prediction",
    "Front": "pareto",
    "History": "proposals.proposals",
    "SearchState": "schedule.scheduler",
    "MergeCandidate": "merge.weight_space_gp",
    "Neighbour": "latent.neighbours",
    "Objective": "objectives",
    "Objectives": "objectives",
    "PathMeasurements": "forecast.learning_curve_gp",
    "RunForecaster": "forecast.run_forecaster",
    "Parameter": "space",
    "PastRun": "proposals.past_runs",
    "Scheduler": "schedule.scheduler",
    "Proposal": "proposals.proposals",
    "RegionSample": "latent.region_sampling",
    "RunForecast": "forecast.run_forecaster",
    "RunModel": "schedule.run_model",
    "RunPath": "latent.trajectory",
    "RunTrajectory": "forecast.run_trajectory",
    "SearchResult": "latent.search",
    "Space": "space",
    "Start": "schedule.run_acquisition",
    "Step": "schedule.scheduler",
    "Pruner": "schedule.pruner",
    "Target": "objectives",
    "WeightSpace": "merge.weight_space_gp",
    "cluster": "latent.clusters",
    "cluster_runs": "latent.clusters",
    "expect": "schedule.run_prediction",
    "fit_run_forecaster": "forecast.run_forecaster",
    "hypervolume": "pareto",
    "infer_space": "space_inference",
    "meets": "objectives",
    "path_statistics": "latent.trajectory",
    "nearest": "latent.neighbours",
    "non_dominated": "pareto",
    "on_way": "merge.weight_space_gp",
    "parse_targets": "objectives",
    "past_runs": "proposals.past_runs",
    "propose": "proposals.proposals",
    "run_paths": "latent.trajectory",
    "run_trajectory": "forecast.run_trajectory",
    "sample_region": "latent.region_sampling",
    "search": "latent.search",
    "PredictedPath": "forecast.temporal_model",
    "TemporalModel": "forecast.temporal_model",
    "fit_temporal_model": "forecast.temporal_model",
    "predict_training_trajectory": "forecast.temporal_model",
}

# Names of version 0.1.
FORMER = {
    "EpsilonSampler": "epsopt.studies:EpsilonSampler",
    "Known": "epsopt.optimize:SearchState",
    "Mixture": "epsopt.optimize:MergeCandidate",
    "OnWay": "epsopt.optimize:PathMeasurements",
    "Outlook": "epsopt.optimize:RunForecaster",
    "Policy": "epsopt.optimize:Scheduler",
    "Stopper": "epsopt.optimize:Pruner",
    "fit_outlook": "epsopt.optimize:fit_run_forecaster",
    "motion": "epsopt.optimize:path_statistics",
}

__getattr__ = lazy_names(__name__, _HOMES, FORMER)
