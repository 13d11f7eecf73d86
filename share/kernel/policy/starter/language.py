"""The words that the starter policy's tokenizer is learned from: our prompts, operations, observations and answers.

Only words matter here, and their order of frequency hardly: every piece that occurs becomes one token.
"""

from __future__ import annotations

_CALLS = (
    '\n{"name": "ZOOM_IN", "arguments": {"bbox": [, , , ]}}\n',
    '\n{"name": "READ_TEXT", "arguments": {}}\n',
    '\n{"name": "READ_TEXT", "arguments": {"bbox": [, , , ], "image": "image_"}}\n',
    '\n{"name": "SEGMENT_OBJECT_AT", "arguments": {"x": , "y": }}\n',
    '\n{"name": "GET_PROPERTIES", "arguments": {"region": "r"}}\n',
    '\n{"name": "GET_PROPERTIES", "arguments": {"region": "r", "other": "r"}}\n',
    '\n{"name": "TRACK_OBJECT", "arguments": {"bbox": [, , , ], "frame": }}\n',
)

_SENTENCES = (
    "system\nOperations: ZOOM_IN(bbox, image) READ_TEXT(bbox, image) SEGMENT_OBJECT_AT(x, y, image)"
    " GET_PROPERTIES(region, bbox, image, other) TRACK_OBJECT(bbox, frame)",
    "user\nassistant\ntool\n",
    "What digit is on the red card? Which digit does the orange card show? Read the digit on the yellow card.",
    "Where is the green card? Where is the cyan card? Where is the blue card? Where is the purple card?",
    "Where is the pink card? List the cards. List the cards with their boxes. Read the digits.",
    "red [] orange [] yellow [] green [] cyan [] blue [] purple [] pink [] white [] black [] gray [] brown []",
    "What does the sign say? Which word is written on the sign? Read the word. Read the text. What text is shown?",
    "Which object is larger, the red or the blue one? Which is bigger? Which is smaller? Which is darker? brighter",
    "Which shape is larger, left or right, top or bottom, first or second? circle square triangle ellipse star",
    "How many red circles are there? Count the objects. How many coins are in the image? How many cells?",
    "Where does the object end? In which corner is the object in the last frame? top-left top-right bottom-left",
    "bottom-right center middle left right top bottom upper lower",
    "The crop of image_, pixels wide and high. image_: x pixels; native box [, , , ] of image_. error: bbox:"
    " x_ y_ outside the image, must be inside; no text found; text confidence area box mean color dominant",
    "region r: box [, , , ], area , confidence . frame lost found yes no true false null none not unknown",
    "mean_color dominant_color centroid orientation eccentricity solidity perimeter texture shape width height",
    "a an the is are was on in at of to and or for with from by it this that there image video frames crop region",
    "question answer what which where how many much does do show shows see look find tell name describe count",
    "zero one two three four five six seven eight nine ten",
    "Please look closely. Use the operations. Answer with a single digit. Answer with one word. Answer yes or no.",
)

CORPUS = tuple(text for text in (*_CALLS, *_SENTENCES) for _ in range(8))
"""Texts without any digit, each repeated so that its words pass the learner's frequency threshold."""

__all__ = ["CORPUS"]
