"""The language: grammar, syntax tree, parser, check, canonical printing.

Takes: a spec's text (`errors.Source`). Gives: `parse.parse` → `syntax.Spec`, `show.show` for
the way back, `check.check_spec` → `checked.CheckedSpec`; all raise `SpecError` with every
fault they found. grammar.lark is the only definition of the language.
May import: errors, format.
"""
