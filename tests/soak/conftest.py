"""The soak's length."""


def pytest_addoption(parser):
    parser.addoption("--soak-minutes", type=float, default=30.0, help="length of the soak")
