"""`mammopipe images`: builds, pushes and names the container images."""

import argparse
from pathlib import Path

from mammopipe.pipelines.commands.arguments import Subparsers, command, refuse


def add(subparsers: Subparsers) -> None:
    """Add the parser of `images`."""
    parser = command(
        subparsers, "images", "build the container images, or push them to ECR", "images build --base-image python:3.11"
    )
    parser.add_argument(
        "action",
        choices=["build", "push", "tag"],
        help="tag prints the tag that names the images; push and tag need the options of the build",
    )
    parser.add_argument("--root", type=Path, default=Path(), metavar="DIR", help="the checkout (default: this folder)")
    parser.add_argument("--client", metavar="COMMAND", help="the Docker client (default: docker)")
    parser.add_argument(
        "--base-image", default="", metavar="IMAGE", help="base image (default: the one that the Dockerfile names)"
    )
    parser.add_argument("--torch-index", default="", metavar="URL", help="package index with other builds of torch")
    parser.add_argument(
        "--serving-extra",
        default="",
        choices=["serving", "inference"],
        help="extra that the serving image installs; inference includes torch (default: serving)",
    )
    parser.add_argument(
        "--certificates", type=Path, metavar="FILE", help="certificates of a proxy before the package index"
    )
    parser.set_defaults(command=images)


def images(options: argparse.Namespace) -> int:
    """Build or push the images, and print their names."""
    from mammopipe.pipelines.containers import images as making

    chosen = making.ImageBuildOptions(
        options.base_image, options.torch_index, options.serving_extra, options.certificates
    )
    client = options.client or "docker"
    if options.action != "build":
        refuse(options, "certificates", rule="only with images build")
    if options.action == "tag":
        refuse(options, "client", rule="only with images build and push: a tag is computed without a Docker client")
        print(making.tag_of(options.root, chosen))
    elif options.action == "push":
        import boto3

        print(making.as_toml(making.push(options.root, chosen, boto3.Session(), client=client)))
    else:
        names = making.build(options.root.resolve(), chosen, client=client)
        for name, size in making.sizes(names, client=client).items():
            print(f"{name:<70} {size / 1e6:>7.0f} MB")
    return 0
