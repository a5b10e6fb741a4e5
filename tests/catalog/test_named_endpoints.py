"""Every endpoint that the five documents behind the catalogue name is found in a profile or among the service tags.

The documents: an article on Windows activation without default outbound access (2024-06), an article on egress to
Azure platform services (2023-03), an article on VNet encryption (2024-02, which names no endpoint), the page on outbound
rules of AKS clusters, and the page on the service-aided subnet configuration of SQL Managed Instance. The list was read
out of them by hand; what they spell $LOC, ${LOCATION} or APIServerPublicIP is a placeholder here.
"""

import pytest

from flowlens.catalog import load_profile, load_tags, profile_names
from flowlens.catalog.placeholders import PLACEHOLDER, key_of

G, U, C = "global", "usgov", "china"

ACTIVATION = [
    ("windows-kms", G, "20.118.99.224", "tcp", 1688),
    ("windows-kms", G, "40.83.235.53", "tcp", 1688),
    ("windows-kms", G, "23.102.135.246", "tcp", 1688),
    ("azure-storage", G, "Storage.<region>", "tcp", 443),
    ("azure-sql", G, "Sql.<region>", "tcp", 1433),
    ("azure-sql", G, "login.microsoftonline.com", "tcp", 443),
    ("rhui", G, "rhui4-1.microsoft.com", "tcp", 443),
    ("windows-update", G, "*.update.microsoft.com", "tcp", 443),
]

PLATFORM = [
    ("azure-portal", G, "AzurePortal", "tcp", 443),
    ("azure-portal", G, "AzureActiveDirectory", "tcp", 443),
    ("azure-portal", G, "AzureResourceManager", "tcp", 443),
    ("azure-portal", G, "AzureFrontDoor.Frontend", "tcp", 443),
    ("entra-id", G, "AzureActiveDirectory", "tcp", 443),
    # Ids 56, 59 and 125 of the Microsoft 365 endpoints, by a name of each.
    ("entra-id", G, "login.microsoftonline.com", "tcp", 443),
    ("entra-id", G, "*.msftauth.net", "tcp", 443),
    ("entra-id", G, "crl.microsoft.com", "tcp", 80),
    ("windows-kms", G, "azkms.core.windows.net", "tcp", 1688),
    ("windows-kms", G, "20.118.99.224", "tcp", 1688),
    ("windows-kms", G, "40.83.235.53", "tcp", 1688),
    ("windows-update", G, "WindowsUpdate", "tcp", 443),
    ("windows-update", G, "*.prod.do.dsp.mp.microsoft.com", "tcp", 443),
    ("log-analytics-agent", G, "*.ods.opinsights.azure.com", "tcp", 443),
    ("azure-monitor-agent", G, "AzureMonitor", "tcp", 443),
    ("azure-monitor-agent", G, "AzureResourceManager", "tcp", 443),
    ("azure-monitor-agent", G, "global.handler.control.monitor.azure.com", "tcp", 443),
    ("azure-monitor-agent", G, "<location>.handler.control.monitor.azure.com", "tcp", 443),
    ("azure-monitor-agent", G, "<workspace-id>.ods.opinsights.azure.com", "tcp", 443),
    ("azure-monitor-agent", G, "management.azure.com", "tcp", 443),
    ("azure-monitor-agent", G, "<location>.monitoring.azure.com", "tcp", 443),
    ("defender-endpoint", G, "MicrosoftDefenderForEndpoint", "tcp", 443),
    ("defender-endpoint", G, "OneDsCollector", "tcp", 443),
    ("defender-endpoint", G, "*.endpoint.security.microsoft.com", "tcp", 443),
    ("defender-endpoint", G, "MicrosoftActiveProtectionService", "tcp", 443),
    ("defender-identity", G, "AzureAdvancedThreatProtection", "tcp", 443),
    ("office365", G, "Office365.Exchange.Optimize", "tcp", 443),
    ("rhui", G, "rhui-1.microsoft.com", "tcp", 443),
    ("rhui", G, "rhui-2.microsoft.com", "tcp", 443),
    ("rhui", G, "rhui-3.microsoft.com", "tcp", 443),
    ("aks-core", G, "AzureCloud.<region>", "tcp", 9000),
    ("aks-core", G, "AzureCloud.<region>", "udp", 1194),
    ("aks-core", G, "AzureCloud.<region>", "udp", 123),
    ("aks-core", G, "AzureKubernetesService", "tcp", 443),
    ("aks-core", G, "<APIServerPublicIP>", "tcp", 443),
    ("defender-containers", G, "login.microsoftonline.com", "tcp", 443),
    ("defender-containers", G, "*.ods.opinsights.azure.com", "tcp", 443),
    ("defender-containers", G, "*.oms.opinsights.azure.com", "tcp", 443),
    ("machine-configuration", G, "AzureArcInfrastructure", "tcp", 443),
    ("machine-configuration", G, "Storage", "tcp", 443),
    ("machine-configuration", G, "*.guestconfiguration.azure.com", "tcp", 443),
    ("machine-configuration", G, "agentserviceapi.guestconfiguration.azure.com", "tcp", 443),
    ("machine-configuration", G, "oaasguestconfigjpes1.blob.core.windows.net", "tcp", 443),
    ("qualys", G, "qagpublic.qg3.apps.qualys.com", "tcp", 443),
    ("qualys", G, "qagpublic.qg2.apps.qualys.eu", "tcp", 443),
    *(
        ("ubuntu-repos", G, name, "tcp", 443)
        for name in (
            "security.ubuntu.com",
            "archive.ubuntu.com",
            "azure.archive.ubuntu.com",
            "motd.ubuntu.com",
            "*.archive.ubuntu.com",
            "entropy.ubuntu.com",
            "api.snapcraft.io",
            "changelogs.ubuntu.com",
        )
    ),
]

TUNNEL = ("0.0.0.0/0", "AzureCloud.<Region>", "<RegionCIDRs>", "<APIServerPublicIP>")
AKS_NAMES = {
    G: (
        "*.hcp.<location>.azmk8s.io mcr.microsoft.com *.data.mcr.microsoft.com mcr-0001.mcr-msedge.net management.azure.com "
        "login.microsoftonline.com packages.microsoft.com acs-mirror.azureedge.net packages.aks.azure.com"
    ),
    C: (
        "*.hcp.<location>.cx.prod.service.azk8s.cn *.tun.<location>.cx.prod.service.azk8s.cn mcr.microsoft.com "
        "*.data.mcr.microsoft.com management.chinacloudapi.cn login.chinacloudapi.cn packages.microsoft.com *.azk8s.cn "
        "mcr.azure.cn *.data.mcr.azure.cn"
    ),
    U: (
        "*.hcp.<location>.cx.aks.containerservice.azure.us mcr.microsoft.com *.data.mcr.microsoft.com "
        "management.usgovcloudapi.net login.microsoftonline.us packages.microsoft.com acs-mirror.azureedge.net "
        "packages.aks.azure.com"
    ),
}
MONITOR = {
    G: (
        "*.ods.opinsights.azure.com *.oms.opinsights.azure.com dc.services.visualstudio.com "
        "*.in.applicationinsights.azure.com *.monitoring.azure.com login.microsoftonline.com "
        "global.handler.control.monitor.azure.com *.ingest.monitor.azure.com *.metrics.ingest.monitor.azure.com "
        "<cluster-region-name>.handler.control.monitor.azure.com"
    ),
    C: (
        "*.ods.opinsights.azure.cn *.oms.opinsights.azure.cn dc.services.visualstudio.com "
        "*.in.applicationinsights.azure.com global.handler.control.monitor.azure.cn "
        "<cluster-region-name>.handler.control.monitor.azure.cn *.ingest.monitor.azure.cn "
        "*.metrics.ingest.monitor.azure.cn"
    ),
    U: (
        "*.ods.opinsights.azure.us *.oms.opinsights.azure.us dc.services.visualstudio.com "
        "*.in.applicationinsights.azure.com global.handler.control.monitor.azure.us "
        "<cluster-region-name>.handler.control.monitor.azure.us *.ingest.monitor.azure.us "
        "*.metrics.ingest.monitor.azure.us"
    ),
}
EXTENSIONS = {
    G: (
        "<region>.dp.kubernetesconfiguration.azure.com mcr.microsoft.com *.data.mcr.microsoft.com "
        "arcmktplaceprod.azurecr.io arcmktplaceprod.centralindia.data.azurecr.io "
        "arcmktplaceprod.japaneast.data.azurecr.io arcmktplaceprod.westus2.data.azurecr.io "
        "arcmktplaceprod.westeurope.data.azurecr.io arcmktplaceprod.eastus.data.azurecr.io "
        "*.ingestion.msftcloudes.com *.microsoftmetrics.com marketplaceapi.microsoft.com"
    ),
    U: "<region>.dp.kubernetesconfiguration.azure.us mcr.microsoft.com *.data.mcr.microsoft.com",
}
AKS = [
    *(
        ("aks-core", cloud, value, protocol, port)
        for cloud, extra in ((G, ()), (U, ()), (C, (("tcp", 22),)))
        for protocol, port in (("udp", 1194), ("tcp", 9000), *extra)
        for value in TUNNEL
    ),
    *(("aks-core", cloud, value, "udp", 123) for cloud in (G, U, C) for value in ("0.0.0.0/0", "ntp.ubuntu.com")),
    *(("aks-core", cloud, "<CustomDNSIP>", "udp", 53) for cloud in (G, U, C)),
    *(("aks-core", cloud, "<APIServerPublicIP>", "tcp", 443) for cloud in (G, U, C)),
    *(("aks-core", cloud, name, "tcp", 443) for cloud, names in AKS_NAMES.items() for name in names.split()),
    ("aks-core", G, "md-*.blob.storage.azure.net", "tcp", 443),
    ("aks-core", G, "umsa*.blob.core.windows.net", "tcp", 443),
    *(
        ("aks-recommended", G, name, "tcp", 80)
        for name in ("security.ubuntu.com", "azure.archive.ubuntu.com", "changelogs.ubuntu.com")
    ),
    ("aks-recommended", G, "snapshot.ubuntu.com", "tcp", 443),
    *(
        ("aks-gpu", G, name, "tcp", 443)
        for name in ("nvidia.github.io", "us.download.nvidia.com", "download.docker.com")
    ),
    ("aks-windows", G, "onegetcdn.azureedge.net", "tcp", 443),
    ("aks-windows", G, "go.microsoft.com", "tcp", 443),
    *(
        ("aks-windows", G, name, "tcp", 80)
        for name in ("*.mp.microsoft.com", "www.msftconnecttest.com", "ctldl.windowsupdate.com")
    ),
    ("aks-addon-workload-identity", G, "login.microsoftonline.com", "tcp", 443),
    ("aks-addon-workload-identity", C, "login.chinacloudapi.cn", "tcp", 443),
    ("aks-addon-workload-identity", U, "login.microsoftonline.us", "tcp", 443),
    *(
        ("defender-containers", cloud, name, "tcp", 443)
        for cloud, login, end in (
            (G, "login.microsoftonline.com", "com"),
            (U, "login.microsoftonline.us", "us"),
            (C, "login.microsoftonline.cn", "cn"),
        )
        for name in (login, f"*.ods.opinsights.azure.{end}", f"*.oms.opinsights.azure.{end}")
    ),
    *(
        (f"aks-addon-{addon}", cloud, name, "tcp", 443)
        for addon in ("keyvault-csi", "istio", "app-routing")
        for cloud, name in ((G, "vault.azure.net"), (U, "*.vault.usgovcloudapi.net"))
    ),
    *(("aks-addon-azure-monitor", cloud, "AzureMonitor", "tcp", 443) for cloud in (G, U, C)),
    *(
        ("aks-addon-azure-monitor", cloud, name, "tcp", 443)
        for cloud, names in MONITOR.items()
        for name in names.split()
    ),
    *(
        ("aks-addon-azure-policy", cloud, name, "tcp", 443)
        for cloud, end in ((G, "core.windows.net"), (C, "azure.cn"), (U, "azure.us"))
        for name in (f"data.policy.{end}", f"store.policy.{end}")
    ),
    ("aks-addon-azure-policy", G, "dc.services.visualstudio.com", "tcp", 443),
    *(
        ("aks-addon-cost-analysis", cloud, name, "tcp", 443)
        for cloud, names in (
            (G, ("management.azure.com", "login.microsoftonline.com")),
            (U, ("management.usgovcloudapi.net", "login.microsoftonline.us")),
            (C, ("management.chinacloudapi.cn", "login.microsoftonline.cn")),
        )
        for name in names
    ),
    *(
        ("aks-cluster-extensions", cloud, name, "tcp", 443)
        for cloud, names in EXTENSIONS.items()
        for name in names.split()
    ),
]

# Rules and routes of the subnet by the name that the page gives them, with what they concern.
SQL_MI = [
    ("Microsoft.Sql-managedInstances_UseOnly_mi-healthprobe-in", "ingress"),
    ("Microsoft.Sql-managedInstances_UseOnly_mi-internal-in", "ingress"),
    ("Microsoft.Sql-managedInstances_UseOnly_mi-internal-out", "egress"),
    ("Microsoft.Sql-managedInstances_UseOnly_mi-subnet-<range>-to-vnetlocal", "route"),
    ("Microsoft.Sql-managedInstances_UseOnly_mi-optional-azure-out", "egress"),
    ("Microsoft.Sql-managedInstances_UseOnly_mi-optional-AzureCloud.<region>", "route"),
]

# FQDN tags of Azure Firewall that an article lists as what there is, without an endpoint behind them: the service tag of
# the same service, where there is one.
FIREWALL_TAGS = {
    "AppServiceEnvironment": "AppServiceManagement",
    "AzureBackup": "AzureBackup",
    "AzureHDInsight": "HDInsight",
    "WindowsVirtualDesktop": "WindowsVirtualDesktop",
    "WindowsDiagnostics": None,
    "Windows365": None,
}

NAMED = [*ACTIVATION, *PLATFORM, *AKS]


def same(value):
    """The value with its placeholders in one spelling."""
    return PLACEHOLDER.sub(lambda found: f"<{key_of(found[1])}>", value).lower()


@pytest.mark.parametrize("profile", sorted({named[0] for named in NAMED}))
def test_each_named_endpoint_is_in_its_profile(profile):
    requirements = load_profile(profile).requirements
    for name, cloud, value, protocol, port in NAMED:
        if name != profile:
            continue
        assert any(
            requirement.cloud == cloud
            and requirement.protocol in (protocol, "any")
            and any(low <= port <= high for low, high in requirement.port_ranges)
            and same(value) in {same(endpoint.value) for endpoint in requirement.endpoints}
            for requirement in requirements
        ), (profile, cloud, value, protocol, port)


def test_each_rule_and_route_of_a_managed_instance_is_a_fact_of_its_profile():
    requirements = load_profile("sql-mi").requirements
    for rule, concerns in SQL_MI:
        (found,) = [r for r in requirements if rule in r.note]
        assert found.concerns == concerns
    (paired,) = [r for r in requirements if "mi-optional-AzureCloud" in r.note]
    assert [endpoint.value for endpoint in paired.endpoints] == ["AzureCloud.<region>", "AzureCloud.<geo-paired>"]
    assert same("<geo-paired>") == same("<region-pair>")


def test_firewall_tags_without_endpoints_have_a_service_tag_where_there_is_one():
    for tag in FIREWALL_TAGS.values():
        assert tag is None or load_tags().find(tag) == tag


def test_every_profile_is_named_or_belongs_to_a_service_that_is():
    named = {profile for profile, *_ in NAMED} | {"sql-mi"}
    assert set(profile_names()) - named == {
        "arc-servers", "azure-platform", "defender-endpoint-mma", "defender-endpoint-standard", "office365-common",
        "office365-exchange", "office365-sharepoint", "office365-teams", "smtp-outbound",
    }  # fmt: skip
