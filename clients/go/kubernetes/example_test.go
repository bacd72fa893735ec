package kubernetes_test

import (
	"context"
	"fmt"
	"log"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientgo "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"kubevend.dev/kubevend"
	"kubevend.dev/kubevend/kubernetes"
)

// In a pod: the cluster is the pod's own, and the token comes from kubevend.
func ExampleWrap() {
	client, err := kubevend.Connect(kubevend.FromEnvironment())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	source := kubevend.NewTokenSource(client, kubevend.Request{Role: "ci"})
	defer source.Close()

	cluster, err := rest.InClusterConfig()
	if err != nil {
		log.Fatal(err)
	}
	clientset, err := clientgo.NewForConfig(kubernetes.Wrap(cluster, source))
	if err != nil {
		log.Fatal(err)
	}
	pods, err := clientset.CoreV1().Pods("apps").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(pods.Items))
}
