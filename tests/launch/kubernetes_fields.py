"""The fields of the Kubernetes objects that launch/gke.py writes, with their types, from the published API.

JobSet v1alpha2 as in its CustomResourceDefinition (kubernetes-sigs/jobset, config/components/crd/bases, August 2026), which
holds batch/v1 Job and core/v1 Pod as well. An object's line has all its fields, not only ours: `name:type`, `!` where it is
required. A type is a JSON type, `quantity` (integer or string), `map` (to texts), `text|text` (an enumeration), another
object's line, or a list `[]` of one of these; `other` is an object that we do not write.
"""

OBJECTS = {
    "JobSet": "apiVersion:string kind:string metadata:ObjectMeta spec:JobSetSpec status:other",
    "ObjectMeta": "annotations:map creationTimestamp:string deletionGracePeriodSeconds:integer deletionTimestamp:string "
    "finalizers:string[] generateName:string generation:integer labels:map managedFields:other[] name:string namespace:string "
    "ownerReferences:other[] resourceVersion:string selfLink:string uid:string",
    "JobSetSpec": "coordinator:other failurePolicy:FailurePolicy managedBy:string network:other replicatedJobs:ReplicatedJob[] "
    "startupPolicy:other successPolicy:other suspend:boolean ttlSecondsAfterFinished:integer volumeClaimPolicies:other[]",
    "FailurePolicy": "maxRestarts:integer restartStrategy:Recreate|BlockingRecreate|InPlaceRestart rules:FailurePolicyRule[]",
    "FailurePolicyRule": "action!:FailJobSet|RestartJobSet|RestartJobSetAndIgnoreMaxRestarts|RestartJob"
    "|RestartJobAndIgnoreMaxRestarts name!:string onJobFailureMessagePatterns:string[] onJobFailureReasons:string[] "
    "targetReplicatedJobs:string[]",
    "ReplicatedJob": "dependsOn:other[] groupName:string name!:string replicas:integer template!:JobTemplateSpec",
    "JobTemplateSpec": "metadata:ObjectMeta spec:JobSpec",
    "JobSpec": "activeDeadlineSeconds:integer backoffLimit:integer backoffLimitPerIndex:integer "
    "completionMode:NonIndexed|Indexed completions:integer managedBy:string manualSelector:boolean maxFailedIndexes:integer "
    "parallelism:integer podFailurePolicy:PodFailurePolicy podReplacementPolicy:TerminatingOrFailed|Failed selector:other "
    "successPolicy:other suspend:boolean template!:PodTemplateSpec ttlSecondsAfterFinished:integer",
    "PodFailurePolicy": "rules!:PodFailurePolicyRule[]",
    "PodFailurePolicyRule": "action!:FailJob|FailIndex|Ignore|Count onExitCodes:other onPodConditions:OnPodCondition[]",
    "OnPodCondition": "status:string type!:string",
    "PodTemplateSpec": "metadata:ObjectMeta spec:PodSpec",
    "PodSpec": "activeDeadlineSeconds:integer affinity:other automountServiceAccountToken:boolean containers!:Container[] "
    "dnsConfig:other dnsPolicy:ClusterFirstWithHostNet|ClusterFirst|Default|None enableServiceLinks:boolean "
    "ephemeralContainers:other[] hostAliases:other[] hostIPC:boolean hostNetwork:boolean hostPID:boolean hostUsers:boolean "
    "hostname:string hostnameOverride:string imagePullSecrets:other[] initContainers:Container[] nodeName:string "
    "nodeSelector:map os:other overhead:map preemptionPolicy:string priority:integer priorityClassName:string "
    "readinessGates:other[] resourceClaims:other[] resources:other restartPolicy:Always|OnFailure|Never "
    "runtimeClassName:string "
    "schedulerName:string schedulingGates:other[] schedulingGroup:other securityContext:other serviceAccount:string "
    "serviceAccountName:string setHostnameAsFQDN:boolean shareProcessNamespace:boolean subdomain:string "
    "terminationGracePeriodSeconds:integer tolerations:Toleration[] topologySpreadConstraints:other[] volumes:Volume[]",
    "Toleration": "effect:NoSchedule|PreferNoSchedule|NoExecute key:string operator:Exists|Equal|Lt|Gt "
    "tolerationSeconds:integer value:string",
    "Container": "args:string[] command:string[] env:other[] envFrom:other[] image:string imagePullPolicy:string "
    "lifecycle:other livenessProbe:other name!:string ports:ContainerPort[] readinessProbe:other resizePolicy:other[] "
    "resources:ResourceRequirements restartPolicy:string restartPolicyRules:other[] securityContext:other startupProbe:other "
    "stdin:boolean stdinOnce:boolean terminationMessagePath:string terminationMessagePolicy:string tty:boolean "
    "volumeDevices:other[] volumeMounts:VolumeMount[] workingDir:string",
    "ContainerPort": "containerPort!:integer hostIP:string hostPort:integer name:string protocol:string",
    "ResourceRequirements": "claims:other[] limits:quantities requests:quantities",
    "VolumeMount": "mountPath!:string mountPropagation:string name!:string readOnly:boolean recursiveReadOnly:string "
    "subPath:string subPathExpr:string",
    "Volume": "awsElasticBlockStore:other azureDisk:other azureFile:other cephfs:other cinder:other configMap:other csi:Csi "
    "downwardAPI:other emptyDir:EmptyDir ephemeral:other fc:other flexVolume:other flocker:other gcePersistentDisk:other "
    "gitRepo:other glusterfs:other hostPath:other image:other iscsi:other name!:string nfs:other persistentVolumeClaim:other "
    "photonPersistentDisk:other portworxVolume:other projected:other quobyte:other rbd:other scaleIO:other secret:other "
    "storageos:other vsphereVolume:other",
    "EmptyDir": "medium:Memory sizeLimit:quantity",
    "Csi": "driver!:string fsType:string nodePublishSecretRef:other readOnly:boolean volumeAttributes:map",
}
TYPES = {"string": str, "integer": int, "boolean": bool}


def list_errors(value, kind, path):
    """Returns the mismatches of a value with the published type, each with its path."""
    if kind.endswith("[]"):
        if not isinstance(value, list):
            return [f"{path}: not a list"]
        return [error for k, one in enumerate(value) for error in list_errors(one, kind[:-2], f"{path}[{k}]")]
    if kind in TYPES:
        return [] if type(value) is TYPES[kind] else [f"{path}: {value!r} is no {kind}"]
    if kind == "quantity":
        return [] if type(value) in (int, str) else [f"{path}: {value!r} is no quantity"]
    if kind in ("map", "quantities"):
        inner = "string" if kind == "map" else "quantity"
        return [error for key, one in value.items() for error in list_errors(one, inner, f"{path}.{key}")]
    if kind not in OBJECTS:
        return [] if value in kind.split("|") else [f"{path}: {value!r} is none of {kind}"]
    fields = dict(word.split(":", 1) for word in OBJECTS[kind].split(" "))
    missing = [f"{path}.{name[:-1]}: missing" for name in fields if name.endswith("!") and name[:-1] not in value]
    types = {name.rstrip("!"): inner for name, inner in fields.items()}
    unknown = [f"{path}.{key}: unknown" for key in value if key not in types]
    return (
        missing
        + unknown
        + [error for key, one in value.items() if key in types for error in list_errors(one, types[key], f"{path}.{key}")]
    )
