"""Components that the collector has and k8strace does not, with what to use instead.

They are those of opentelemetry-collector and -contrib up to v0.161, and what older releases
had. Ids are compared without underscores: `k8sattributes` became `k8s_attributes`,
`loadbalancing` became `load_balancing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from k8strace.component import ComponentID
from k8strace.config_structs import closest, nearest

TYPO = 0.75
"""How much a type is like another of which it is a misspelling. There are hundreds, and
distributions have some of their own: most names are a little like some other."""

_OTLP_GRPC = "use otlp_grpc where the backend takes OTLP over gRPC"
_PORT = "where the backend takes OTLP over gRPC, too (port 4317 as a rule), use otlp_grpc"
_BALANCER = (
    "otlp_grpc shares its calls among all addresses of a name (round_robin), without "
    "keeping a trace's spans together"
)
_OTLP_IN = "send OTLP instead, or put a Collector in front that translates"
_NO_METRICS = "only traces are received"
_UNCHANGED = "do it in a Collector in front or behind; here spans pass unchanged"
_SAMPLER = "use probabilistic_sampler, which decides by trace id, or a Collector behind"
_LEAVE_OUT = "leave it out"
_BEHIND = "derive it from the spans in a Collector behind, or in the backend"


def _each(instead: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), instead)


_EXPORTERS = {
    "otlphttp": _PORT,
    "jaeger": "Jaeger takes OTLP since v1.35: use otlp_grpc",
    "jaegerthrifthttp": "Jaeger takes OTLP since v1.35: use otlp_grpc",
    "opencensus": _OTLP_GRPC,
    "otelarrow": _OTLP_GRPC,
    "loadbalancing": _BALANCER,
    **_each(
        _OTLP_GRPC,
        """
        alibabacloudlogservice awskinesis awss3 awsxray azureblob azuredataexplorer
        azuremonitor bmchelix cassandra clickhouse coralogix datadog dataset doris dynatrace
        elasticsearch f5cloud faro googlecloud googlecloudpubsub googlecloudstorage
        honeycomb humio influxdb instana kafka kinesis lightstep logicmonitor logzio mezmo
        newrelic opensearch parquet pulsar rabbitmq sapm sentry signalfx skywalking
        splunkhec stackdriver stef sumologic syslog tanzuobservability
        tencentcloudlogservice tinybird wavefront zipkin
        """,
    ),
    **_each(
        "only traces are sent",
        """
        alertmanager awscloudwatchlogs awsemf carbon googlemanagedprometheus honeycombmarker
        loki prometheus prometheusremotewrite
        """,
    ),
}

_PROCESSORS = {
    "queuedretry": "use sending_queue and retry_on_failure of the exporter",
    "queuebatch": "use batch, or sending_queue of the exporter",
    "routing": "send what belongs together to a receiver and a pipeline of its own",
    "groupbytrace": _LEAVE_OUT + ": spans are not held until their trace is complete",
    "servicegraph": _BEHIND,
    "spanmetrics": _BEHIND,
    **_each(_SAMPLER, "tailsampling adaptivetailsampling cascadingfilter isolationforest"),
    **_each(
        _UNCHANGED,
        """
        attributes coralogix datadog dnslookup filter genainormalizer geoip groupbyattrs
        k8sattributes k8stagger lookup redaction remotetap resource resourcedetection schema
        span sumologic transform unroll
        """,
    ),
    **_each(
        "it is not for traces: " + _LEAVE_OUT,
        """
        cardinalityguardian cumulativetodelta deltatocumulative deltatorate drain
        experimentalmetricsgeneration interval logdedup logstransform metricsgeneration
        metricstarttime metricstransform
        """,
    ),
}

_RECEIVERS = {
    **_each(
        _OTLP_IN,
        """
        awsfirehose awss3 awsxray azureeventhub azuremonitor datadog faro github gitlab
        googlecloudpubsub jaeger kafka libhoney obi opencensus otelarrow otlpjsonfile pulsar
        rabbitmq sapm signalfx skywalking solace stef wavefront zipkin
        """,
    ),
    "nop": "configure otlp",
    "receivercreator": "configure the receivers themselves",
    **_each(
        _NO_METRICS,
        """
        activedirectoryds aerospike apache apachespark awscloudwatch awscontainerinsight
        awsecscontainermetrics azureblob bigip carbon chrony ciscoos cloudflare cloudfoundry
        collectd couchdb dockerstats elasticsearch envoyals expvar filelog filestats
        flinkmetrics fluentforward googlecloudmonitoring googlecloudspanner haproxy
        hostmetrics httpcheck icmpcheck iis influxdb journald k8scluster k8sevents
        k8sobjects kafkametrics kubeletstats loki macosunifiedlogging memcached mongodb
        mongodbatlas mysql namedpipe netflow nginx nsxt ntp oracledb osquery otlpfile
        podmanstats postgresql pprof prometheus prometheusexec prometheusremotewrite
        prometheussimple purefa purefb redis riak saphana simpleprometheus snmp snowflake
        splunkenterprise splunkhec sqlquery sqlserver sshcheck statsd syslog systemd
        tcpcheck tcplog tlscheck udplog vcenter webhookevent windowseventlog
        windowsperfcounters windowsservice yanggrpc zookeeper
        """,
    ),
}

_EXTENSIONS = {
    "healthcheckv2": "use health_check",
    "jaegerremotesampling": "configure the sampling of the senders themselves",
    "memoryballast": "it is for Go's garbage collector: " + _LEAVE_OUT,
    "cgroupruntime": "it is for Go's runtime: " + _LEAVE_OUT,
    "dbstorage": "use file_storage",
    "redisstorage": "use file_storage",
    "pebbletailstorage": "there is no tail_sampling that would use it: " + _LEAVE_OUT,
    **dict.fromkeys(
        ("asapclient", "azureauth", "googleclientauth", "sigv4auth"),
        "use basicauth, bearertokenauth, headers_setter or oauth2client where the backend "
        "takes one of them",
    ),
    **_each(
        _LEAVE_OUT,
        """
        ack avrologencoding awscloudwatchmetricstreamsencoding awsiamdbauth awslogsencoding
        awsproxy azureencoding cfgardenobserver datadog dockerobserver ecsobserver
        ecstaskobserver encoding googlecloudlogentryencoding hostobserver httpforwarder
        jaegerencoding jsonlogencoding k8sleaderelector k8sobserver kafkatopicsobserver
        opamp otlpencoding pprof remotetap skywalkingencoding solarwindsapmsettings
        sumologic textencoding zipkinencoding
        """,
    ),
}

_CONNECTORS = {
    "forward": "name the receivers or exporters in each pipeline",
    "failover": "otlp_grpc goes on with the addresses of a name that answer",
    "roundrobin": _BALANCER,
    "routing": "send what belongs together to a receiver and a pipeline of its own",
    **_each(
        _BEHIND,
        """
        count datadog exceptions grafanacloud metricsaslogs otlpjson servicegraph
        signaltometrics slowsql spanmetrics sum
        """,
    ),
}

_COMPONENTS: Mapping[str, Mapping[str, str]] = {
    "receivers": _RECEIVERS,
    "processors": _PROCESSORS,
    "exporters": _EXPORTERS,
    "extensions": _EXTENSIONS,
    "connectors": _CONNECTORS,
}

_OTHER_SPELLINGS = {
    "exporters": ("otlp_http", "load_balancing"),
    "processors": ("k8s_attributes", "tail_sampling", "resource_detection"),
    "connectors": ("span_metrics", "service_graph"),
    "extensions": ("memory_ballast",),
}
"""Those of present ids that people write, so that a slip of the pen is told from them."""


def refusal(kind: str, singular: str, type_: str, ours: Iterable[str]) -> str:
    """What to say of a component that is not one of `ours`.

    That the collector has it, and what to use instead; or that nobody knows it, and which
    name is most like it.
    """
    theirs = _COMPONENTS[kind]
    if (instead := theirs.get(_folded(type_))) is not None:
        return f"{singular} type {type_!r} is not available in k8strace; {instead}"
    ours = set(ours)
    known = [*ours, *theirs, *_OTHER_SPELLINGS.get(kind, ())]
    close = closest(type_, known, TYPO)
    hint = f"; did you mean {close}?" if close else ""
    if close and close not in ours:
        hint = f"; did you mean {close}, which is not available in k8strace?"
    return f"unknown {singular} type {type_!r}{hint}"


def reference_hint(
    kind: str,
    id_: ComponentID,
    declared: Iterable[ComponentID],
    ours: Mapping[str, object],
) -> str:
    """The hint at the declared id that is most like one that is not declared.

    `ours` are our components by their types. The hint is never at another component: who
    means otlphttp doesn't mean otlp; otlp and otlp_grpc are one.
    """
    type_ = _folded(id_.type)
    known = {_folded(one) for one in (*ours, *_COMPONENTS[kind])}
    others: set[str] = set()
    if type_ in known:
        component = ours.get(id_.type, id_)
        same = {_folded(name) for name, one in ours.items() if one is component}
        others = known - same - {type_}
    return nearest(
        str(id_), [str(one) for one in declared if _folded(one.type) not in others]
    )


def _folded(type_: str) -> str:
    return type_.replace("_", "")
