"""Text of any script as plain ASCII that pdflatex sets without a package."""

import unicodedata

_SIGNS = {
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "\N{NO-BREAK SPACE}": "~",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{LEFT SINGLE QUOTATION MARK}": "`",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": "``",
    "\N{RIGHT DOUBLE QUOTATION MARK}": "''",
    "\N{HORIZONTAL ELLIPSIS}": "\\dots{}",
    "\N{LATIN SMALL LETTER SHARP S}": "\\ss{}",
    "\N{LATIN SMALL LETTER AE}": "\\ae{}",
    "\N{LATIN SMALL LETTER O WITH STROKE}": "\\o{}",
}
_MATH = {
    "PLUS-MINUS SIGN": "pm",
    "MULTIPLICATION SIGN": "times",
    "MIDDLE DOT": "cdot",
    "MINUS SIGN": "-",
    "DEGREE SIGN": "^\\circ",
    "MICRO SIGN": "mu",
    "SUPERSCRIPT TWO": "^2",
    "LESS-THAN OR EQUAL TO": "le",
    "GREATER-THAN OR EQUAL TO": "ge",
    "NOT EQUAL TO": "ne",
    "ALMOST EQUAL TO": "approx",
    "INFINITY": "infty",
    "UPWARDS ARROW": "uparrow",
    "DOWNWARDS ARROW": "downarrow",
    "LEFTWARDS ARROW": "leftarrow",
    "RIGHTWARDS ARROW": "rightarrow",
    "LEFT RIGHT ARROW": "leftrightarrow",
    "RIGHTWARDS DOUBLE ARROW": "Rightarrow",
    "ELEMENT OF": "in",
    "NABLA": "nabla",
    "PARTIAL DIFFERENTIAL": "partial",
    "N-ARY SUMMATION": "sum",
    "SQUARE ROOT": "surd",
}
_MATH |= {
    f"GREEK SMALL LETTER {name.upper()}": name
    for name in [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "zeta",
        "eta",
        "theta",
        "iota",
        "kappa",
        "mu",
        "nu",
        "xi",
        "pi",
        "rho",
        "sigma",
        "tau",
        "upsilon",
        "phi",
        "chi",
        "psi",
        "omega",
    ]
}
_MATH |= {
    f"GREEK CAPITAL LETTER {name.upper()}": name
    for name in ["Gamma", "Delta", "Theta", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega"]
}
_MATH |= {"GREEK SMALL LETTER LAMDA": "lambda", "GREEK CAPITAL LETTER LAMDA": "Lambda"}  # Unicode spells it so.
_ACCENTS = {
    "\N{COMBINING GRAVE ACCENT}": "`",
    "\N{COMBINING ACUTE ACCENT}": "'",
    "\N{COMBINING CIRCUMFLEX ACCENT}": "^",
    "\N{COMBINING TILDE}": "~",
    "\N{COMBINING DIAERESIS}": '"',
    "\N{COMBINING RING ABOVE}": "r",
    "\N{COMBINING CARON}": "v",
    "\N{COMBINING CEDILLA}": "c",
    "\N{COMBINING MACRON}": "=",
}


def latex(text: str) -> str:
    """Text that LaTeX sets as it is; a sign that LaTeX has no word for becomes its number, as in U+1F600."""
    return "".join(map(_sign, unicodedata.normalize("NFC", text)))


def _sign(sign: str) -> str:
    if sign in _SIGNS:
        return _SIGNS[sign]
    if sign.isascii():
        return sign
    if (macro := _MATH.get(unicodedata.name(sign, ""))) is not None:
        return f"$\\{macro}$" if macro.isalpha() else f"${macro}$"
    base, *accents = unicodedata.normalize("NFD", sign)
    if base.isascii() and len(accents) == 1 and accents[0] in _ACCENTS:
        return f"\\{_ACCENTS[accents[0]]}{{{base}}}"
    return f"\\texttt{{U+{ord(sign):04X}}}"
