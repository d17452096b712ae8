"""Shell completion, written out from the parser itself, so that it knows every command and option there is."""

import argparse
from collections.abc import Mapping

_BASH = """_mammopipe() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} command=${{COMP_WORDS[1]}} words=""
  if [ "$COMP_CWORD" -eq 1 ]; then words="{commands}"; else
    case "$command" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  [ "${{#COMPREPLY[@]}}" -gt 0 ] || COMPREPLY=($(compgen -f -- "$word"))
}}
complete -o filenames -F _mammopipe mammopipe
"""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script for `bash`, `zsh` or `fish`: commands, their options, and the words that an option takes."""
    found = _commands(parser)
    if shell == "fish":
        return _fish(parser, found)
    cases = "\n".join(f'      {name}) words="{" ".join(words)}" ;;' for name, words in found.items())
    bash = _BASH.format(commands=" ".join(found), cases=cases)
    return f"autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n{bash}" \
        if shell == "zsh" else bash


def _subparsers(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _commands(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """Return the words of each command: options, and the choices of any argument."""
    found = {}
    for name, sub in _subparsers(parser).items():
        options = [option for action in sub._actions for option in action.option_strings if option.startswith("--")]
        choices = [str(word) for action in sub._actions for word in action.choices or ()]
        found[name] = [*options, *choices]
    return found


def _fish(parser: argparse.ArgumentParser, found: Mapping[str, list[str]]) -> str:
    helps = {name: (sub.description or "").replace("'", "") for name, sub in _subparsers(parser).items()}
    lines = [f"complete -c mammopipe -n __fish_use_subcommand -a {name} -d '{helps[name]}'" for name in found]
    for name, words in found.items():
        lines.append(f"complete -c mammopipe -n '__fish_seen_subcommand_from {name}' -a '{' '.join(words)}'")
    return "\n".join(lines) + "\n"
