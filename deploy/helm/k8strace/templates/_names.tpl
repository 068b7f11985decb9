{{- define "k8strace.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* Shorter than a name may be: -headless follows. */ -}}
{{- define "k8strace.fullname" -}}
{{- $name := include "k8strace.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "k8strace.selector" -}}
app.kubernetes.io/name: {{ include "k8strace.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "k8strace.labels" -}}
{{ include "k8strace.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: trace-gateway
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "k8strace.metadata" -}}
name: {{ include "k8strace.fullname" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "k8strace.labels" . | nindent 2 }}
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
