"""The tasks that come with Nexa pass the tests that every task must pass."""

from nexa.testing.task import TaskContract


class TestRegression(TaskContract):
    plugin_name = "regression"
    model_name = "mlp"
    data_uri = "synthetic:regression"
    overrides = {"regression.n_samples": 64, "regression.hidden_sizes": [8], "data.validation.fraction": 0.25}


class TestSupervisedFineTuning(TaskContract):
    plugin_name = "sft"
