#!/bin/sh
# Writes the files of LibreOffice: `libreoffice.sh FOLDER WORK`, where WORK is a folder for what is in between. make.sh runs it.
# The numbers behind a filter's name: separator, quote, character set (76 is UTF-8, 65535 UTF-16), first line, formats of
# the columns (2 is text), language (1033 is English), quote all text, and of reading: detect special numbers.
set -eu
files=$1 work=$2
filter='Text - txt - csv (StarCalc)'

# convert SOURCE NAME AS [option]: what LibreOffice makes of source/SOURCE.csv, as libreoffice/NAME.
convert() {
  source=$1 name=$2 as=$3
  shift 3
  soffice --headless "-env:UserInstallation=file://$work/profile" "$@" --convert-to "$as" --outdir "$work/converted" \
    "$files/source/$source.csv" >/dev/null 2>&1
  mv "$work/converted/$source.${as%%:*}" "$files/libreoffice/$name"
}

mkdir -p "$files/libreoffice"
convert mixed opened-and-saved.csv csv
convert mixed special-numbers.csv csv "--infilter=$filter:44,34,76,1,,1033,false,true"
convert mixed columns-read-as-text.csv csv "--infilter=$filter:44,34,76,1,1/2/2/2/3/2"
convert mixed semicolons-and-quotes.csv "csv:$filter:59,34,76,1,,0,true,true"
convert mixed utf-16.csv "csv:$filter:9,34,65535,1"
convert numbers-with-gaps numbers-with-gaps.csv csv
convert mixed leads.xlsx xlsx
convert mixed leads.xls xls
convert mixed leads.html html
convert numbers leads.ods ods
