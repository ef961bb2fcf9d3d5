"""Radiology reports of phantoms: what is there, in varied words, and what is not."""

import numpy as np

from medical.data.phantoms import Lesion

_SAID = {
    "nodule": (
        "There is a {size} mm nodule in the {site}.",
        "A rounded soft tissue opacity of {size} mm is seen in the {site}.",
        "{Site}: pulmonary nodule measuring {size} mm.",
        "A solid nodule is noted in the {site}, {size} mm in diameter.",
        "Well circumscribed {size} mm nodule within the {site} of the lung.",
    ),
    "effusion": (
        "There is a {site} pleural effusion, up to {size} mm deep.",
        "Free fluid layers in the {site} pleural space to a depth of {size} mm.",
        "{Site} sided pleural effusion measuring {size} mm.",
        "The {site} hemithorax contains dependent pleural fluid of {size} mm.",
    ),
    "cyst": (
        "A simple cyst of {size} mm lies in the {site}.",
        "There is a {size} mm fluid attenuation lesion of the {site}, consistent with a cyst.",
        "{Site}: cyst measuring {size} mm, without enhancement.",
        "The {site} contains a thin walled {size} mm cyst.",
    ),
    "metastasis": (
        "A {size} mm metastasis is present in the {site}.",
        "The {site} shows a {size} mm lesion suspicious for metastasis.",
        "{Site}: metastatic deposit of {size} mm.",
        "Findings are in keeping with a metastasis of {size} mm in the {site}.",
    ),
    "hemangioma": (
        "A brightly enhancing {size} mm hemangioma lies in the {site}.",
        "There is a {size} mm hyperattenuating lesion of the {site}, typical of a hemangioma.",
        "{Site}: hemangioma measuring {size} mm.",
    ),
    "stone": (
        "There is a {size} mm stone in the {site}.",
        "A calculus of {size} mm is seen in the {site}.",
        "{Site}: nephrolithiasis with a {size} mm stone.",
    ),
    "aneurysm": (
        "The {site} is aneurysmal with a diameter of {size} mm.",
        "There is an aneurysm of the {site} measuring {size} mm.",
        "Fusiform dilatation of the {site} to {size} mm.",
    ),
}
_CONCLUDED = {
    "nodule": "{size} mm nodule of the {site}",
    "effusion": "{site} pleural effusion",
    "cyst": "cyst of the {site}",
    "metastasis": "metastasis in the {site}",
    "hemangioma": "hemangioma of the {site}",
    "stone": "stone in the {site}",
    "aneurysm": "aneurysm of the {site}",
}
_SITE_WORDS = {
    "right upper lobe": ("right upper lobe", "apex of the right lung"),
    "left upper lobe": ("left upper lobe", "apex of the left lung"),
    "right lower lobe": ("right lower lobe", "base of the right lung"),
    "left lower lobe": ("left lower lobe", "base of the left lung"),
    "right lobe of the liver": ("right lobe of the liver", "right hepatic lobe"),
    "left lobe of the liver": ("left lobe of the liver", "left hepatic lobe"),
    "thoracic spine": ("thoracic spine", "body of a thoracic vertebra"),
    "thoracic aorta": ("thoracic aorta", "descending aorta"),
}
# What is said of an organ in which nothing is wrong; a lesion with one of the words silences it.
_NORMAL = {
    ("lobe ", "lobe"): ("The lungs are clear.", "No pulmonary nodule or consolidation."),
    ("effusion",): ("No pleural effusion.", "The pleural spaces are free of fluid."),
    ("liver",): ("The liver is unremarkable.", "No focal liver lesion.", "Normal liver."),
    ("kidney",): (
        "Both kidneys enhance symmetrically.",
        "The kidneys are normal.",
        "No renal calculus or hydronephrosis.",
    ),
    ("spine",): ("No destructive bone lesion.", "The vertebral bodies are intact."),
    ("aorta",): ("The aorta is of normal caliber.", "No aortic aneurysm."),
    ("heart",): ("The heart is not enlarged.", "Heart size is normal.", "No pericardial fluid."),
    ("spleen",): ("The spleen is normal in size.", "Unremarkable spleen."),
}
_TECHNIQUE = (
    "Contrast enhanced CT of the chest and upper abdomen.",
    "CT of thorax and abdomen in the portal venous phase.",
    "Axial CT images after intravenous contrast.",
)
_NOTHING = ("No acute abnormality.", "Normal examination.", "Unremarkable study.")


def write_report(rng: np.random.Generator, lesions: list[Lesion]) -> str:
    """A report that states every lesion once in its findings and once in its impression."""
    findings = [_sentence(rng, lesion) for lesion in lesions]
    for words, sentences in _NORMAL.items():
        if not any(_concerns(lesion, words) for lesion in lesions) and rng.random() < 0.6:
            findings.append(str(rng.choice(sentences)))
    findings = [findings[i] for i in rng.permutation(len(findings))]
    concluded = [
        _CONCLUDED[lesion.kind].format(size=f"{lesion.size:.0f}", site=lesion.site)
        for lesion in lesions
    ]
    concluded = [concluded[i] for i in rng.permutation(len(concluded))]
    impression = ". ".join(text[0].upper() + text[1:] for text in concluded) + "."
    parts = [
        str(rng.choice(_TECHNIQUE)),
        "Findings: " + " ".join(findings),
        "Impression: " + (impression if concluded else str(rng.choice(_NOTHING))),
    ]
    return "\n".join(parts) + "\n"


def _sentence(rng: np.random.Generator, lesion: Lesion) -> str:
    site = str(rng.choice(_SITE_WORDS.get(lesion.site, (lesion.site,))))
    said = str(rng.choice(_SAID[lesion.kind]))
    return said.format(size=f"{lesion.size:.0f}", site=site, Site=site[0].upper() + site[1:])


def _concerns(lesion: Lesion, words: tuple[str, ...]) -> bool:
    if words[0].startswith("lobe"):
        return lesion.kind == "nodule"
    return any(word in f"{lesion.kind} {lesion.site}" for word in words)
