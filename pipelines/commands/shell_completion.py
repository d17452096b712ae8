"""Shell completion, written out from the parser itself, so that it knows every command and option there is."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_BASH = """_mammopipe() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words=""
  if [ "$COMP_CWORD" -eq 1 ]; then words="{commands}"; else
    case "${{COMP_WORDS[1]}} ${{COMP_WORDS[COMP_CWORD-1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  [ "${{#COMPREPLY[@]}}" -gt 0 ] || COMPREPLY=($(compgen -f -- "$word"))
}}
complete -o filenames -F _mammopipe mammopipe
"""


@dataclass(frozen=True)
class _Words:
    """What may follow a command."""

    general: Sequence[str]
    """Its options, and the choices of its positional arguments."""
    values: Mapping[str, Sequence[str]]
    """The choices of those options that have some."""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script for `bash`, `zsh` or `fish`: commands, their options, and the words that an option takes."""
    found = {name: _words(sub) for name, sub in _subparsers(parser).items()}
    if shell == "fish":
        return _fish(parser, found)
    bash = _BASH.format(commands=" ".join(found), cases="\n".join(_cases(found)))
    return (
        f"autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n{bash}"
        if shell == "zsh"
        else bash
    )


def _subparsers(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _words(parser: argparse.ArgumentParser) -> _Words:
    general: list[str] = []
    values: dict[str, list[str]] = {}
    for action in parser._actions:
        options = [option for option in action.option_strings if option.startswith("--")]
        choices = [str(word) for word in action.choices or ()]
        general += options or choices
        values |= dict.fromkeys(options, choices) if choices else {}
    return _Words(general, values)


def _cases(found: Mapping[str, _Words]) -> Iterator[str]:
    """Yield the branches of the shell's `case`, those of an option's value before that of its command."""
    for name, words in found.items():
        for option, choices in words.values.items():
            yield f'      "{name} {option}") words="{" ".join(choices)}" ;;'
        yield f'      "{name} "*) words="{" ".join(words.general)}" ;;'


def _fish(parser: argparse.ArgumentParser, found: Mapping[str, _Words]) -> str:
    helps = {name: (sub.description or "").replace("'", "") for name, sub in _subparsers(parser).items()}
    lines = [f"complete -c mammopipe -n __fish_use_subcommand -a {name} -d '{helps[name]}'" for name in found]
    for name, words in found.items():
        seen = f"complete -c mammopipe -n '__fish_seen_subcommand_from {name}'"
        lines.append(f"{seen} -a '{' '.join(words.general)}'")
        lines += [
            f"{seen} -l {option.removeprefix('--')} -x -a '{' '.join(choices)}'"
            for option, choices in words.values.items()
        ]
    return "\n".join(lines) + "\n"
