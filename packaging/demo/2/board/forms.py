from django import forms

from .models import Notice


class NoticeForm(forms.ModelForm):
    class Meta:
        model = Notice
        fields = ["text", "name", "colour"]
        widgets = {
            "text": forms.Textarea(attrs={"rows": 3, "placeholder": "What should everybody know?"}),
            "name": forms.TextInput(attrs={"placeholder": "Your name"}),
        }
