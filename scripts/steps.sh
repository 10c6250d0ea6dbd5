# Read by the scripts that run a whole pipeline, once they are in the run's folder: what they have done already is not done again.
began=$(date +%s)

say() { printf '\n%s\n' "== $* ($(($(date +%s) - began)) s)" >&2; }

# into FILE COMMAND…: the command's output as a file, unless it is there already.
into() {
  local file=$1
  shift
  [ -s "$file" ] && return
  "$@" > "$file.part"
  mv "$file.part" "$file"
}

# Every training command goes on where it stopped; its closing line of JSON is kept.
train() { rlhf "$@" --resume >> summaries.jsonl; }
