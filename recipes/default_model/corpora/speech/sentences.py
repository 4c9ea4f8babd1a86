"""Random sentences from a small grammar, which cover all sounds of English."""

import re

import numpy as np

WORDS = {
    "who": "farmer teacher doctor sailor neighbour painter driver singer baker child grandfather "
    "queen thief judge gardener nurse pilot student stranger butcher girl boy chief uncle",
    "what": "basket letter bicycle kettle umbrella guitar ladder blanket newspaper treasure "
    "sandwich picture hammer candle shovel mirror suitcase violin pencil garage fish book jar "
    "watch toy",
    "where": "market river kitchen station garden bridge library harbour village forest school "
    "mountain beach office church theatre valley street island house field",
    "how": "old young quiet cheerful thirsty clever lazy famous gentle nervous bright huge tiny "
    "yellow purple broken precious heavy wooden smooth thick orange",
    "does": "carries finds loses repairs hides paints sells measures throws keeps brings washes "
    "chooses borrows enjoys watches breaks fetches covers shows",
    "moves": "walks runs jumps drives travels marches rushes returns hurries wanders",
    "when": "today|tomorrow|again|every morning|after lunch|before sunrise|at midnight|"
    "on Thursday|this evening|in the winter|for the first time|without a sound",
    "number": "two three four five six seven eight nine ten eleven twelve thirteen thirty fifty",
    "weather": "rain snow fog thunder wind sunshine frost",
}
FRAMES = (
    "The {how} {who} {does} the {what} {when}.",
    "The {who} {moves} to the {where} {when}.",
    "{number} people wait near the {how} {where}.",
    "Why does nobody look for the {how} {what}?",
    "There is a {what} behind the {where}, and the {who} {does} it.",
    "Please bring {number} boxes to the {where}.",
    "I think that the {who} {does} a {how} {what}.",
    "When the {weather} is over, the {who} {moves} through the {where}.",
    "Have you ever seen the {who} of the {where}?",
    "We could hear the {weather} from the {where}.",
    "She asked the {who} for a {how} {what} and {number} more.",
    "My {who} {does} the {what} while the {who} {moves} away.",
)


def sentence(rng: np.random.Generator) -> str:
    """One of some millions of sentences."""

    def fill(frame: str) -> str:
        begin = frame.find("{")
        if begin < 0:
            return frame
        end = frame.index("}")
        words = WORDS[frame[begin + 1 : end]]
        choices = words.split("|") if "|" in words else words.split()
        word = choices[int(rng.integers(len(choices)))]
        return frame[:begin] + word + fill(frame[end + 1 :])

    text = re.sub(r"\ba (?=[aeiou])", "an ", fill(FRAMES[int(rng.integers(len(FRAMES)))]))
    return text[0].upper() + text[1:]
