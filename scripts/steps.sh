# Read by the scripts that run a whole pipeline, once they are in the run's folder: what they have done already is not done again.
began=$(date +%s)

say() { printf '\n%s\n' "== $* ($(($(date +%s) - began)) s)" >&2; }

# into FILE COMMAND…: the command's output as a file, unless it is there already.
into() {
  local file=$1
  shift
  [ -s "$file" ] && return
  "$@" > "$file.part" || return
  mv "$file.part" "$file"
}

# Every training command goes on where it stopped; its closing line of JSON is kept.
train() { rlhf "$@" --resume >> summaries.jsonl; }

# beside NAME COMMAND…: in the background, what it says in NAME.log, while the script goes on. `joined` waits for it; if it fails, so
# does the script, and shows the log. Stopping the script stops it too, and it saves what it has.
beside() {
  log=$1.log
  shift
  set -m # a process group of its own, so that everything in it can be told to stop
  (set +m; "$@") 2> "$log" &
  other=$!
  set +m
}
joined() {
  wait "$other" || { status=$?; other=''; cat "$log" >&2; exit "$status"; }
  other=''
}
leave() {
  [ "$other" ] || return 0
  kill -INT -- "-$other" 2> /dev/null || true
  wait "$other" 2> /dev/null || true
}
other=''
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
