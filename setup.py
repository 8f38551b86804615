"""Packaging of mmw-agent. The version lives in mmwagent/_version.py."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION: dict[str, str] = {}
exec((HERE / "mmwagent" / "_version.py").read_text(encoding="utf-8"), VERSION)

setup(
    name="mmw-agent",
    version=VERSION["__version__"],
    description="Node agent of the miaomiaowux panel: reports and manages Xray and nginx on a VPS",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: No Input/Output (Daemon)",
        "Framework :: Twisted",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: System :: Networking :: Monitoring",
    ],
    python_requires=">=3.11",
    # twisted/ and twisted/plugins/ hold no __init__.py on purpose: with one, uninstalling this
    # package would remove Twisted's own. So the plugin directory is named by hand.
    packages=[*find_packages(include=["mmwagent", "mmwagent.*"]), "twisted.plugins"],
    package_data={"mmwagent": ["py.typed", "config.example.yaml"]},
    # The lower bounds are what Debian 12 carries.
    install_requires=[
        "Twisted[tls]>=22.4",
        "autobahn>=22.7.1",
        "treq>=22.2",
        "klein>=23.12",
        "PyYAML>=6.0",
        "service-identity>=18.1",
        "Automat>=22.10",
        "attrs>=22.2",
    ],
    extras_require={
        "test": ["hypothesis", "setuptools", "trustme", "wheel"],
        "lint": ["mypy", "mypy-zope", "ruff", "types-PyYAML"],
    },
    entry_points={"console_scripts": ["mmw-agent = mmwagent.__main__:main"]},
    zip_safe=False,
)
