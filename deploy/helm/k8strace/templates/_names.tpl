{{- define "k8strace.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* Shorter than a name may be: -headless follows. */ -}}
{{- define "k8strace.fullname" -}}
{{- $name := include "k8strace.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "k8strace.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- /* Labels that select pods. Those of pods may be given, and are then selected by. */ -}}
{{- define "k8strace.selector" -}}
{{- $given := merge dict (default dict .Values.podLabels) (default dict .Values.additionalLabels) -}}
{{- $name := get $given "app.kubernetes.io/name" | default (include "k8strace.name" .) -}}
{{- $instance := get $given "app.kubernetes.io/instance" | default .Release.Name -}}
{{- toYaml (dict "app.kubernetes.io/name" $name "app.kubernetes.io/instance" $instance) -}}
{{- end -}}

{{- /* Labels of an object: `labels` go before additionalLabels, these before the chart's own. */ -}}
{{- define "k8strace.labels" -}}
{{- $version := printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" -}}
{{- $own := dict "app.kubernetes.io/version" .root.Chart.AppVersion "app.kubernetes.io/component" "trace-gateway" "helm.sh/chart" $version -}}
{{- $selector := include "k8strace.selector" .root | fromYaml -}}
{{- include "k8strace.yaml" (merge dict (default dict .labels) $selector (default dict .root.Values.additionalLabels) $own) -}}
{{- end -}}

{{- /* Of an object of the chart; `suffix`, `labels` and `annotations` are optional. */ -}}
{{- define "k8strace.metadata" -}}
name: {{ include "k8strace.fullname" .root }}{{ .suffix | default "" }}
namespace: {{ include "k8strace.namespace" .root }}
labels:
  {{- include "k8strace.labels" . | nindent 2 }}
{{- with .annotations }}
annotations:
  {{- include "k8strace.yaml" . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* The name of objects that are not in a namespace. */ -}}
{{- define "k8strace.clusterName" -}}
{{ include "k8strace.namespace" . }}-{{ include "k8strace.fullname" . }}
{{- end -}}

{{- define "k8strace.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "k8strace.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "k8strace.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default .Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}
