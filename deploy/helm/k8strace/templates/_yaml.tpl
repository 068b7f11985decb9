{{- /*
A map as YAML, without keys that are null. Helm itself takes away only what is in the chart's own
values; a null that is over a variant's value, or one of another file, it leaves in its place.
*/ -}}
{{- define "k8strace.yaml" -}}
{{- $map := deepCopy . -}}
{{- include "k8strace.removeNulls" $map -}}
{{- toYaml $map -}}
{{- end -}}

{{- /* In place, and at all depths of maps; lists are not merged by Helm, so they stay. */ -}}
{{- define "k8strace.removeNulls" -}}
{{- $map := . -}}
{{- range $key, $value := . -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $map $key -}}
{{- else if kindIs "map" $value -}}
{{- include "k8strace.removeNulls" $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Bytes of a Kubernetes quantity (resource.Quantity), a string or a number; a float. */ -}}
{{- define "k8strace.bytes" -}}
{{- $text := trimPrefix "+" (toString .) -}}
{{- if regexMatch "[eE][-+]?[0-9]+$" $text -}}
{{- float64 $text -}}
{{- else -}}
{{- $units := dict "" 1 "n" 1e-9 "u" 1e-6 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{- $number := regexFind "^[0-9.]+" $text -}}
{{- mulf (float64 $number) (get $units (trimPrefix $number $text)) -}}
{{- end -}}
{{- end -}}
