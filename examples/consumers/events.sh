#!/bin/sh
# Print what is in events, a line for each: when it was appended, its place, its key and its name.
#
#   examples/consumers/events.sh kafka-1:9092 [TOPIC] [OPTIONS OF KCAT, such as -o -10]
#
# Names and ids are headers in plain text, so nothing has to decode Avro. Needs kcat and awk.
set -eu
servers=$1
topic=${2:-stepfold.events}
shift "$(($# < 2 ? $# : 2))"
kcat -C -q -e -o beginning "$@" -b "$servers" -t "$topic" -f '%T\t%p-%o\t%k\t%h\n' |
    awk -F '\t' -v OFS='\t' '{
        name = "-"
        count = split($4, headers, ",")
        for (i = 1; i <= count; i++)
            if (name == "-" && match(headers[i], /^(name|ce_type)=/)) name = substr(headers[i], RLENGTH + 1)
        print $1, $2, $3, name
    }'
