{{- define "pillion.name" -}}
{{- .Values.fullnameOverride | default "pillion-injector" | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "pillion.selector" -}}
app.kubernetes.io/name: pillion-injector
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "pillion.labels" -}}
{{ include "pillion.selector" . }}
app.kubernetes.io/part-of: pillion
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "pillion.secret" -}}
{{- .Values.certificate.secretName | default (printf "%s-tls" (include "pillion.name" .)) -}}
{{- end -}}

{{/* The settings of the injector as its configuration file. */}}
{{- define "pillion.config" -}}
{{- $tls := dict "cert_file" "/etc/pillion-tls/tls.crt" "key_file" "/etc/pillion-tls/tls.key" -}}
{{- $injector := merge (dict "image" .Values.image "tls" $tls) .Values.injector -}}
{{- toYaml (dict "injector" $injector "log" (dict "format" "json") "shutdown" (dict "delay" "5s")) -}}
{{- end -}}
