"""What setup.cfg cannot say: the compiled functions, without which the same is done in NumPy, slower."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "pipeline._kernels",
            ["pipeline/_kernels.c"],
            extra_compile_args=["-O3"],
            optional=True,
        )
    ]
)
