"""Words of the miniature language: people, things, verbs, and the wordings of the two replaceable slots.

Every slot holds twenty interchangeable wordings of one to four words; many share their beginnings, so that a language
model is unsure at the branches only. Which of them are common is decided by `profit.miniature.language.Style`.
"""

PEOPLE = "Ada Ben Cleo Dan Eva Finn Gia Hugo Ida Jon Kira Leo Mia Noah Olga Paul Rosa Sam Tara Zoe".split()
THINGS = "apples beads cards coins cups eggs hats keys maps nuts pears pens plums rings shells stamps".split()

# The verb decides the operation; doubling is rare in pretraining.
VERBS = {
    "add": ("buys", "finds", "gets", "picks", "makes"),
    "subtract": ("loses", "sells", "drops", "gives", "breaks"),
    "double": ("doubles",),
}
SIGNS = {"add": "+", "subtract": "-", "double": "+"}

CONNECTORS = (
    "Then", "Now", "Next", "Here", "After that", "After this step", "After it", "At this point", "At once", "So far",
    "So now", "From here", "From there on", "In turn", "In this way", "By now", "By then", "With that", "Again",
    "With this done",
)  # fmt: skip
CLOSERS = (
    "So", "Thus", "Hence", "Overall", "Finally", "In total", "In the end", "In short", "In all", "All in all",
    "All together", "At last", "At the end", "As a result", "As we see", "To sum up", "To finish", "That is why",
    "That means", "Therefore",
)  # fmt: skip
SLOTS = {"connector": CONNECTORS, "closer": CLOSERS}

MARKERS = "Amber Blue Coral Dawn Ember Frost Gold Hazel Iris Jade".split()

# Instructions about the output format, as they stand in the prompt; {word} is a marker, {thing} the problem's thing.
INSTRUCTIONS = {
    "starts_with": "Start with the word {word}.",
    "ends_with": "End with the word {word}.",
    "no_word": "Do not write the word {thing}.",
    "answer_only": "Give only the number.",
}
