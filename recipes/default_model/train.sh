#!/usr/bin/env bash
# Trains the model in the package from scratch: corpora, tokenizers, both stages, and the results in its model card.
#
#     PRESET=tiny recipes/default_model/train.sh                    # a few minutes, synthetic sounds, no downloads
#     SOURCES=/data EVAL=/data/eval recipes/default_model/train.sh  # hours
#
# It runs in a clone of the repository, because it calls the recipes in the folder above.
#
# SOURCES holds the data that no program can generate:
#     kokoro/manifest_*.jsonl  utterances of Kokoro's voices (prepare_speech.py --kokoro makes others)
#     esc10/                   ESC-10, a folder for each class
#     minilm/                  all-MiniLM-L6-v2, as published by sentence-transformers
#     wordnet/                 the data files of WordNet 3.0 (Debian: wordnet-base)
# EVAL holds independent judges: yamnet/, lyra/, whisper/. Measurements that need a missing one are skipped.
# Music needs fluidsynth and FluidR3 (apt-get install fluidsynth fluid-soundfont-gm).
#
# It stops at the first error. A second run skips the steps that are recorded in OUT/done and resumes an
# interrupted training. Remove OUT/done/STEP to repeat a step.
set -eo pipefail
cd "$(dirname "$0")/../.."
if [[ ! -f recipes/train_codec.py ]]; then
    echo "train.sh: found no recipes/train_codec.py in $PWD; run it in a clone of the repository." >&2
    exit 2
fi

PRESET=${PRESET:-default} # or tiny
PYTHON=${PYTHON:-python}
JUDGE=${JUDGE:-$PYTHON} # a Python with the judges installed
SOURCES=${SOURCES:-sources}
EVAL=${EVAL:-$SOURCES/eval}
OUT=${OUT:-runs/$PRESET}
DATA=${DATA:-$OUT/data}
HELD_OUT=0.2
CORPORA=(effects music piano speech esc10)
# Short corpora are repeated so that long ones do not dominate: for the codec, and for the stages.
HEARD=("${CORPORA[@]}" speech speech esc10)
LEARNED=("${CORPORA[@]}" more_music piano speech speech speech esc10 esc10)
corpora=("${CORPORA[@]/#/$DATA/}")
heard=("${HEARD[@]/#/$DATA/}")
tokens=("${CORPORA[@]/#/$OUT/tokens/}" "$OUT/tokens/more_music")
learned=("${LEARNED[@]/#/$OUT/tokens/}")

case $PRESET in
default)
    MODEL=${MODEL:-lm_audio/pretrained}
    CODEC=(--steps 3400 --adversarial-from 1)
    DECODER=(--steps 2500 --adversarial-from 1 --learning-rate 1e-3)
    CODEBOOK=small
    PASSAGES=12
    SEMANTIC=(--steps 2800 --text-dropout 0.2)
    ACOUSTIC=(--steps 10800 --text-dropout 0.2)
    CODEBOOKS=8 # of the codec, for the acoustic stage; the last ones are costly and add little
    EFFECTS=(--hours 6)
    MUSIC=(--hours 6.5)
    MORE_MUSIC=(--hours 12)
    PIANO=(--hours 2.5)
    SPEECH=(--manifest "$SOURCES"/kokoro/manifest_*.jsonl)
    ESC10=(--data "$SOURCES/esc10")
    SENTENCES=(--wordnet "$SOURCES/wordnet")
    TEACHER=(--teacher "$SOURCES/minilm")
    WORDINGS=("$DATA/effects" "$DATA/music" "$DATA/esc10")
    judged=(--dnsmos speechmos --voices resemblyzer --shards "${tokens[@]}")
    for corpus in "${CORPORA[@]}"; do judged+=("--$corpus" "$DATA/$corpus"); done
    if [[ -e $EVAL/yamnet/yamnet.tflite ]]; then judged+=(--yamnet "$EVAL/yamnet/yamnet.tflite"); fi
    if [[ -d $EVAL/lyra ]]; then judged+=(--lyra "$EVAL/lyra"); fi
    if [[ -d $EVAL/whisper ]]; then judged+=(--asr "$EVAL/whisper"); fi
    ;;
tiny)
    MODEL=${MODEL:-$OUT/model}
    CODEC=() DECODER=() SEMANTIC=() ACOUSTIC=()
    CODEBOOK=tiny
    PASSAGES=4
    CODEBOOKS=3
    EFFECTS=(--hours 0.02)
    MUSIC=(--hours 0.02)
    MORE_MUSIC=(--hours 0.02)
    PIANO=(--hours 0.02)
    SPEECH=() ESC10=() SENTENCES=() TEACHER=()
    WORDINGS=("$DATA/esc10") # the other tiny corpora have one clip per class
    judged=(--only speed) # all other groups need judges
    ;;
*)
    echo "train.sh: got PRESET=$PRESET; expected default or tiny." >&2
    exit 2
    ;;
esac

step() { # NAME COMMAND...: runs a command unless the step is done
    local name=$1 begun=$SECONDS
    shift
    if [[ -e $OUT/done/$name ]]; then
        echo "== $name: done before"
        return
    fi
    echo "== $name: $*"
    "$@"
    mkdir -p "$OUT/done"
    touch "$OUT/done/$name"
    echo "== $name: $((SECONDS - begun)) s"
}

recipe() { # NAME PRESET OPTIONS...
    "$PYTHON" "recipes/$1.py" --preset "$2" "${@:3}"
}

round() { # FROM TO: rounds weights to float16, before any training on their tokens
    mkdir -p "$2"
    cp "$1/config.json" "$2"
    "$PYTHON" - "$1/model.safetensors" "$2/model.safetensors" <<'PYTHON'
import sys

from safetensors.torch import load_file, save_file

save_file({name: weight.half() for name, weight in load_file(sys.argv[1]).items()}, sys.argv[2])
PYTHON
}

# Corpora
step effects recipe default_model/prepare_effects "$PRESET" "${EFFECTS[@]}" --held-out $HELD_OUT --out "$DATA/effects"
step music recipe default_model/prepare_music "$PRESET" "${MUSIC[@]}" --held-out $HELD_OUT --out "$DATA/music"
step more_music recipe default_model/prepare_music "$PRESET" "${MORE_MUSIC[@]}" --seed 3 --held-out 0.02 --out "$DATA/more_music"
step piano recipe default_model/prepare_music "$PRESET" "${PIANO[@]}" --solo piano --shortest 10 --longest 20 --seed 1 \
    --held-out $HELD_OUT --out "$DATA/piano"
step speech recipe default_model/prepare_speech "$PRESET" "${SPEECH[@]}" --held-out $HELD_OUT --out "$DATA/speech"
step esc10 recipe prepare_esc10 "$PRESET" "${ESC10[@]}" --held-out $HELD_OUT --out "$DATA/esc10"

# Tokenizers
step codec recipe train_codec "$PRESET" --data "${heard[@]}" "${CODEC[@]}" --out "$OUT/codec_float32"
step decoder recipe train_codec "$PRESET" --data "${heard[@]}" "${DECODER[@]}" --start "$OUT/codec_float32" \
    --learns decoder --quantised-from 0 --warmup-steps 30 --out "$OUT/decoder_float32"
step codec_half round "$OUT/decoder_float32" "$OUT/codec"
step masked_model recipe train_masked_model "$PRESET" --data "${corpora[@]}" --out "$OUT/masked_float32"
step masked_model_half round "$OUT/masked_float32" "$OUT/masked_model"
step semantic_tokenizer recipe train_semantic_codebook $CODEBOOK --model "$OUT/masked_model" \
    --data "${corpora[@]}" --out "$OUT/semantic_tokenizer"

# Text encoder
step sentences recipe default_model/prepare_sentences "$PRESET" "${SENTENCES[@]}" --corpora "${corpora[@]}" \
    --out "$OUT/sentences.txt"
step text_encoder recipe train_text_encoder "$PRESET" "${TEACHER[@]}" --sentences "$OUT/sentences.txt" \
    --corpora "${WORDINGS[@]}" --out "$OUT/text_encoder"

# Both stages
for corpus in "${CORPORA[@]}" more_music; do
    more=() # music and speech are not mixed
    case $corpus in
    effects) more=(--mix 1 --fill 5) ;; # trailing silence teaches silence
    esc10) more=(--mix 3 --fill 5) ;;
    speech) more=(--passages "$PASSAGES") ;; # single sentences are too short for continuations
    esac
    step "tokens_$corpus" recipe tokenize_dataset "$PRESET" --data "$DATA/$corpus" --codec "$OUT/codec" \
        --num-codebooks "$CODEBOOKS" --semantic "$OUT/semantic_tokenizer" "${more[@]}" --out "$OUT/tokens/$corpus"
done
lm=(--data "${learned[@]}" --codec "$OUT/codec" --text-encoder "$OUT/text_encoder/model")
step semantic recipe train_stage "$PRESET" --family duet --stage semantic "${lm[@]}" "${SEMANTIC[@]}" --out "$OUT/semantic"
step acoustic recipe train_stage "$PRESET" --family duet --stage acoustic "${lm[@]}" "${ACOUSTIC[@]}" \
    --semantic "$OUT/semantic" --semantic-tokenizer "$OUT/semantic_tokenizer" --out "$OUT/acoustic"
step model recipe default_model/assemble "$PRESET" --model "$OUT/acoustic/model" --out "$MODEL"

# Results
PYTHON=$JUDGE step report recipe default_model/evaluate default --model "$MODEL" "${judged[@]}" --out "$OUT/report"

echo "The model is in $MODEL, its results in $OUT/report."
echo "Next: $PYTHON tests/lm_audio/pretrained/make_golden.py, the model card, make test."
