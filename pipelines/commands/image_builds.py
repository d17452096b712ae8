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
        help="tag prints what names them; push and tag take the options that they were built with",
    )
    parser.add_argument("--root", type=Path, default=Path(), metavar="DIR", help="the checkout (default: this folder)")
    parser.add_argument("--client", metavar="COMMAND", help="the Docker client (default: docker)")
    parser.add_argument("--base-image", default="", metavar="IMAGE", help="another base than the Dockerfile's")
    parser.add_argument("--torch-index", default="", metavar="URL", help="an index with other builds of torch")
    parser.add_argument("--serving-extra", default="", choices=["serving", "inference"], help="inference brings torch")
    parser.add_argument(
        "--certificates", type=Path, metavar="FILE", help="certificates for a proxy in front of the index"
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
        refuse(options, "certificates", rule="only of images build")
    if options.action == "tag":
        refuse(options, "client", rule="only of images build and push: a tag is of the code, and no client is asked")
        print(making.tag_of(options.root, chosen))
    elif options.action == "push":
        import boto3

        print(making.as_toml(making.push(options.root, chosen, boto3.Session(), client=client)))
    else:
        names = making.build(options.root.resolve(), chosen, client=client)
        for name, size in making.sizes(names, client=client).items():
            print(f"{name:<70} {size / 1e6:>7.0f} MB")
    return 0
