"""Contract tests for plugins: subclass the class of your plugin's kind, name the plugin, run pytest.

    from nexa.testing.backend import BackendContract

    class TestEcho(BackendContract):
        plugin_name = "echo"

A backend has two more: `nexa.testing.settings.SettingsContract`, which changes every recipe field in turn, and
`nexa.testing.conformance.ConformanceContract`, which compares its training with a reference.

The plugin must be installed (`pip install -e .`), since the tests look it up as `nexa launch` does.
Every class says which fixtures and class attributes may be overridden. Tests of optional parts run
where the plugin's spec declares the capability. Needs pytest; nothing else imports this package.
"""
